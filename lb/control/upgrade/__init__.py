"""The change of the running program: a trial of the new one, the handover to it in the same process, and the way back.

What is handed over is collected by the master and its parts; the restart under a service manager is in
lb.control.stored_sockets and lb.control.cache.kept.
"""
