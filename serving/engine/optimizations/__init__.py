"""Optimisations of a model. Each is checked against the model as transformers runs it before it serves.

execution_form     which of them a model has
packing            rows → a packed sequence
unpadded           encoders on packed sequences
attention          attention within the rows of a packed sequence
first_token        the last layer for first tokens only
cuda_graphs        small batches as CUDA graphs
torchscript        the forward pass as a TorchScript graph
prepacked_weights  linear layers with transposed weights, or in oneDNN's layout
int8_products      linear layers with weights of bytes
torch_private      private names of torch, guarded
"""
