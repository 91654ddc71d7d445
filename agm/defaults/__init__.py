"""The built-in behaviour, as plugins behind the same hooks that anybody can implement."""
