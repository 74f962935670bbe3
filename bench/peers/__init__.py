"""The peers that Headwaiter is compared with, each as its own documentation writes it:

plain_bentoml     a BentoML service with `batchable=True`
litserve_app      a LitServe API with batching
ray_serve         a Ray Serve deployment with `@serve.batch`
fastapi_pipeline  FastAPI around a transformers pipeline
fastapi_onnx      FastAPI around ONNX Runtime; export_onnx writes its model
fastapi_openvino  FastAPI around OpenVINO; export_openvino writes its model
export_mlflow     the model that `mlflow models serve` serves
echo              an ASGI app that answers with what it got: the cost of HTTP alone
catalog           how each model server is installed and started; Infinity needs no file here
environments      makes their environments
start             starts them
"""
