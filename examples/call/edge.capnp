# workerd's configuration of edge_worker.mjs: its modules, where it listens, and to whom it may talk. The words in braces
# are filled in when it is started.

using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "edge", worker = .edge),
    (name = "internet", network = (allow = ["private", "public"])),
  ],
  sockets = [(name = "http", address = "127.0.0.1:{port}", http = (), service = "edge")],
);

const edge :Workerd.Worker = (
  modules = [
    (name = "edge_worker.mjs", esModule = embed "edge_worker.mjs"),
    (name = "webrtc.mjs.txt", text = embed "webrtc.mjs"),
    (name = "grafter-propagation/context.mjs", esModule = embed "context.mjs"),
    (name = "grafter-propagation/edge.mjs", esModule = embed "edge.mjs"),
  ],
  compatibilityDate = "2026-01-01",
  bindings = [(name = "GATEWAY", text = "{gateway}"), (name = "OTLP_HTTP", text = "{otlp}")],
);
