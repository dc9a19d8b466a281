"""What a vision-language model reads: image files, views of them, tokens and pixels, and which model it is."""
