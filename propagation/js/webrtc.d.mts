export interface PeerConnectionOptions {
  /** Where grafter, or any OTLP/HTTP receiver, listens; `http://localhost:4318` by default. */
  endpoint?: string;
  /** The span under which it hangs; without one it begins a trace. */
  traceparent?: string;
  /** `browser` by default. */
  serviceName?: string;
  /** Of the request, such as a bearer token. */
  headers?: Record<string, string>;
  /** Of the span, such as a call's id. */
  attributes?: Record<string, string | number>;
}

export interface TracedPeerConnection {
  /** The span's own place, for what the page asks of its server. */
  traceparent: string;
  /** Ends and sends the span now, with these attributes too; later calls do nothing. */
  end(attributes?: Record<string, string | number>): void;
}

/** One span `webrtc.peer_connection` of a connection's life, sent as OTLP JSON when it ends. */
export function tracePeerConnection(pc: RTCPeerConnection, options?: PeerConnectionOptions): TracedPeerConnection;
