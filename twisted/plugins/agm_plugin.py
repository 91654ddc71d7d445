"""The two commands that agm adds to twistd.  Nothing else belongs here: an error in this file hides both."""

from twisted.application.service import ServiceMaker

gateway = ServiceMaker("agm", "agm.tap", "A local gateway for the Gemini API.", "agm")
emulator = ServiceMaker(
    "agm-emulator", "agm.emulator.tap", "A faithful emulator of Google's Gemini upstreams.", "agm-emulator"
)
