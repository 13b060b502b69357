"""The half of Dxgkrnl that lives on the host: all policy on memory objects.

Nothing here knows vfio-user, sockets or rings: calls go in as values, answers
come out as values, and a refusal is an exception that carries an NTSTATUS.
"""
