"""A VNC server: the Remote Framebuffer Protocol, RFC 6143.

`protocol`, `pixel_format` and `encodings` know no socket; `server` owns it.
"""
