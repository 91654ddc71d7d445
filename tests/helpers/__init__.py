"""What the tests of several wings use: upstreams and clients of a dialogue, commands, pages, a browser."""
