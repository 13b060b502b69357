"""What memory a device could reach, and when: a log of its mappings.

For any device made with pyvfio_user; `vdxgk audit` reads the log.
"""
