"""No-op jobs through Relais's queue and its peers. `peer_*` run in environments of their own, without Relais."""
