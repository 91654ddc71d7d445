"""
An emulator of Google's Gemini upstreams, to test clients and gateways against without credentials or network.

One Twisted web server (:func:`agm.emulator.site.make_site`) speaks the Gemini Developer API, Vertex AI and the
code-assist API on one port, with the OAuth token endpoint beside them and a control endpoint under ``/_emu/``.  The
same request always gets the same bytes.  ``docs/emulator.md`` is its manual.

The modules, from the pure to the ones that touch a socket:

* ``framing``, ``websocket``, ``replies``, ``faults``, ``errors``, ``jsontext``, ``schema``, ``calls``, ``pages``:
  the wire, as values;
* ``catalogue``, ``tokens``, ``values``, ``images``, ``answers``, ``generation``, ``embeddings``, ``steps``,
  ``stepstream``: what a model would say;
* ``requestlog``, ``holdings``, ``state``: what the emulator remembers;
* ``credentials``, ``modelcalls``, ``developer``, ``interactions``, ``neighbours``, ``vertex``, ``codeassist``,
  ``openai``, ``oauth``, ``control``: a call in, a reply out; ``live``: a session's message in, its messages out,
  and ``liveinteraction``, the same of a live interaction;
* ``stored``, ``storage``, ``uploads``, ``batches``, ``stores``, ``tuning``, ``videos``, ``jobs``: the same, about what
  is kept;
* ``scenarios``: faults of a bad day, by a name;
* ``playback``, ``sockets``, ``site``, ``tap``: the socket; ``command``: the program ``agm-emulator``;
  ``pytest_plugin``: for the tests of others.

Nothing here imports the gateway: the two only meet over HTTP.
"""
