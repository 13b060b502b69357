"""The vdxgk adapter: a display device that proves DMA remapping."""
