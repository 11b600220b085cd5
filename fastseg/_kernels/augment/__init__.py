"""What augmentation does to images, masks and contours."""
