"""The line from LeNet-5 to ResNet: networks, layers, their arithmetic, exact rewrites."""
