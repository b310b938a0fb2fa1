"""spfast: finds and rewrites subgraphs of torch.fx graphs at native speed."""
