"""KServe's own client, over gRPC and HTTP, asked of a real server from an environment of its own.

kserve 0.19 needs other releases of protobuf and of the HTTP stack than the server has. The variable HEADWAITER_KSERVE
names the Python of an environment that has it.
"""

from tests.alike import assert_alike
from tests.e2e.elsewhere import needs_environment, run_elsewhere
from tests.e2e.server import Server

PYTHON = "HEADWAITER_KSERVE"
pytestmark = needs_environment(PYTHON, "kserve")
TEXTS = ["a good book", "a bad book"]
PROGRAM = """
import asyncio, json, sys
import numpy
from kserve import InferInput, InferRequest, InferenceGRPCClient, InferenceRESTClient, RESTConfig

grpc_address, url, *texts = sys.argv[1:]

def request(model, raw):
    given = InferInput(name="text", shape=[len(texts)], datatype="BYTES")
    if raw:
        given.set_data_from_numpy(numpy.array([text.encode() for text in texts], dtype=object), binary_data=True)
    else:
        given = InferInput(name="text", shape=[len(texts)], datatype="BYTES", data=texts)
    return InferRequest(model_name=model, infer_inputs=[given], request_id="seven")

def plain(response):
    (output,) = response.outputs
    return [response.id, response.model_name, output.datatype, list(output.shape), output.as_numpy().tolist()]

def texts_of(told):
    *head, values = told
    return [*head, [json.loads(each if isinstance(each, str) else each.decode()) for each in values]]

async def main():
    client = InferenceGRPCClient(url=grpc_address)
    told = {
        "live": await client.is_server_live(),
        "ready": await client.is_server_ready(),
        "model": await client.is_model_ready("embedder"),
        "nobody": await client.is_model_ready("nobody"),
        "vectors": plain(await client.infer(request("embedder", raw=True))),
        "labels": texts_of(plain(await client.infer(request("sentiment", raw=True)))),
    }
    await client.close()
    rest = InferenceRESTClient(config=RESTConfig(protocol="v2"))
    told["rest"] = plain(await rest.infer(base_url=url, data=request("embedder", raw=False), model_name="embedder"))
    told["rest_ready"] = await rest.is_model_ready(base_url=url, model_name="embedder")
    await rest.close()
    print(json.dumps(told))

asyncio.run(main())
"""


def test_its_clients_get_the_servers_answers(server: Server) -> None:
    told = run_elsewhere(PYTHON, PROGRAM, server.grpc_address, server.url, *TEXTS)
    assert [told[name] for name in ("live", "ready", "model", "rest_ready", "nobody")] == [True] * 4 + [False]
    vectors, labels = server.ask("embedder", TEXTS), server.ask("sentiment", TEXTS)
    for name, model, kind, values in (
        ("vectors", "embedder", "FP32", vectors),
        ("rest", "embedder", "FP32", vectors),
        ("labels", "sentiment", "BYTES", labels),
    ):
        *head, found = told[name]
        shape = [len(values), len(values[0])] if kind == "FP32" else [len(values)]
        assert head == ["seven", model, kind, shape], name
        assert_alike(found, values)
