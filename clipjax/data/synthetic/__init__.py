"""What the synthetic scenes show and say."""
