"""The store that replicas share: Redis or Valkey, alone, behind Sentinel, or as a cluster.

Everything that is decided about a key is decided by a script on the server that has it (``lua/``), so that replicas
need not speak to each other: any of them stores any part, each due key is claimed by one of them, and a token that is
no longer the key's own does nothing. All keys of a trace lie in one of 64 buckets, which is one slot of a cluster; a
request is one pipeline of at most one script a bucket in a cluster, and one script otherwise.

    address        what a URL says
    errors         what Redis answers and what goes wrong, as types
    connection     one socket, opened by the library: requests that come together leave together
    server         the connections to one server, made again after a loss, and the scripts that it has to know
    topology       which server has a bucket: the one there is, or the one that Sentinel names
    cluster        the same for a cluster: the node that has the bucket's slot
    framing        commands as the server reads them
    scripts        the Lua texts, and how they are called
    layout         names of keys, and the bytes of what is in them
    engine         what the rooms below share
    totals         what is held, by bucket, as this process knows it
    replicas       under which numbers this process works, and what stands in its books
    placement      append: where parts belong
    claims         claim, split, read
    memories       what is remembered: finding it, and forgetting the oldest
    settling       outcomes, settlements
    dead_letters, dedupe_keys, tasks, calls
    store          the contract, made of these
    upkeep         what a replica does beside its work
    opening        start, checks, stop
"""
