"""What guest memory a device could reach, and when: the analysis of an audit's log.

log -> history (pieces) -> reach (curves) -> report -> text, page, pictures.
"""
