"""The protocols, one file each: routes, bodies, answers, errors. `serving.front.app` has the table of protocols.

`base` is the class of all, and `forms` reads their bodies. `huggingface` · `openai`, whose bodies `openai_completions`,
`openai_chat` (both with `openai_forms`) and `openai_embeddings` answer · `kserve`, with `kserve_inference`,
`kserve_tensors`, `kserve_datatypes` and `kserve_descriptions`, which gRPC uses too · `mlflow` · `bentoml` · `rerank` ·
`tokens`.
"""
