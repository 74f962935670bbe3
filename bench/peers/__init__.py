"""What Headwaiter is compared with, each as its own documentation writes it:

plain_bentoml  a BentoML service with `batchable=True`
echo           an ASGI app that answers with what it got: the cost of HTTP alone
start          starts them
"""
