"""What a server answers, as OpenAPI 3.1 at `/openapi.json`: `routes` declares every `route`, `document` describes them.

shapes, openai_shapes, kserve_shapes   answers as types, where no struct describes them
"""
