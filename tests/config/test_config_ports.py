"""The same config at other ports."""

from grafter.components import Config
from grafter.config.root import listening, with_ports


def test_ports_are_put_where_they_belong() -> None:
    """Each endpoint gets the port of its place, and keeps its host; everything else stays as it was."""
    said = {
        "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": "[::1]:0"}}}, "openai": {"endpoint": ":0"}},
        "exporters": {"honeycomb": {"api_key": "hcaik_1"}},
    }
    config = Config.model_validate(said)
    ports = {loc: 5000 + at for at, (loc, _) in enumerate(listening(config))}
    changed = with_ports(config, ports)
    assert [(loc, endpoint.port) for loc, endpoint in listening(changed)] == list(ports.items())
    assert [endpoint.host for _, endpoint in listening(changed)] == ["::1", "localhost", "", *["localhost"] * 3]
    back = with_ports(changed, {loc: endpoint.port for loc, endpoint in listening(config)})
    assert back == config
    assert changed.exporters == config.exporters
