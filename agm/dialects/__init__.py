"""
Other APIs than Google's, each spoken by a plugin of agm's own: OpenAI's and Anthropic's.

A dialect reads its client's request, makes a call of a model of it by ``gateway.call``, and writes the answer in its
client's form.  Nothing here knows more of the gateway than :mod:`agm.api` tells anybody's plugin: what a dialect needs
and that lacks is added there.

:mod:`~agm.dialects.base` is the common ground, :mod:`~agm.dialects.gemini` what Google's answers consist of,
:mod:`~agm.dialects.schema` translates JSON Schemas.
"""
