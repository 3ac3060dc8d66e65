"""Pictures that take more than a function: `inside` draws a transformer and what happens in it, `live` a falling loss."""
