"""
What tests and benchmarks both use: real ``twistd`` processes, clients on blocking sockets, storms.

It needs neither pytest nor anything of ``tests`` or ``bench``.
"""
