"""Raw text: from corpora to packed and masked blocks."""
