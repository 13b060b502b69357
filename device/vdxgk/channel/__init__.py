"""The paravirtual channel: layouts, rings, registers, and the service behind them."""
