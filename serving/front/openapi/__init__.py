"""What a server answers, as OpenAPI 3.1: `routes` declares every route, `document` describes them for `/openapi.json`.

shapes, openai_shapes, kserve_shapes   answers as types, where no struct describes them
"""
