"""Results as plain data: transfer matrices, contrasts, comparisons. Nothing here renders."""
