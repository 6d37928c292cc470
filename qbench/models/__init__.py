"""The networks. Each file holds builders ``(channels, height, width, num_classes, **options) -> nn.Module``."""
