"""The embedded study: small pretrained parts, scenes and shake maps, datasets, and the maker that rebuilds them."""
