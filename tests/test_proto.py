"""The generated protobuf code is what ``make proto`` makes of proto/ today."""

import importlib
from pathlib import Path

import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc

PROTO = Path(__file__).parent.parent / "proto"


@pytest.mark.parametrize("source", sorted(PROTO.glob("*.proto")), ids=lambda path: path.name)
def test_generated_code_matches_its_source(source: Path, tmp_path: Path) -> None:
    """Compiling a .proto anew gives the very descriptor that the committed module registers."""
    out = tmp_path / "set.pb"
    status = protoc.main(["protoc", f"--proto_path={PROTO}", f"--descriptor_set_out={out}", str(source)])
    assert status == 0
    (fresh,) = FileDescriptorSet.FromString(out.read_bytes()).file
    fresh.ClearField("source_code_info")
    # protoc's own set has json names in it, which the generated code leaves to the runtime.
    for message in fresh.message_type:
        for field in message.field:
            field.ClearField("json_name")

    generated = importlib.import_module(f"grafter.otlp.{source.stem}_pb2")
    assert fresh.SerializeToString() == generated.DESCRIPTOR.serialized_pb
