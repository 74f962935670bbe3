"""Which waiting rows share a forward pass, and what one costs.

queue          waiting rows, deadlines, the next batch
length_groups  which lengths share a padded batch
cost           the cost model of a forward pass
online_cost    the cost model fitted to the batches that ran
"""
