"""For how long a device reaches a page after its guest has unmapped it, measured.

`device` keeps reading; `guest` is a kernel module that maps and unmaps;
`measure` brings them together.
"""
