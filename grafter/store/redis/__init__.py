"""The store that replicas share: Redis or Valkey, alone, behind Sentinel, or as a cluster.

Everything that is decided about a key is decided by a script on the server that has it (``lua/``), so that replicas
need no word among each other: any of them files any part, each due key is handed to one of them, and a token that is
no longer the key's own does nothing. All keys of a trace lie in one of 64 buckets, which is one slot of a cluster; a
request is one pipeline of at most one script a bucket in a cluster, and one script otherwise.

    address     what a URL says
    connection  one socket: requests that come together leave together, answers come in their order
    topology    which server has a bucket: the one, the one that Sentinel names, or the one of the slot
    scripts     the Lua texts, and how they are called
    layout      names of keys, and the bytes of what is in them
    sums        what is held, by bucket, as this process knows it
    filing      append: where parts belong
    handing     claim, bundle, read
    settling    outcomes, settlements, memories
    store       the contract, made of these
    opening     start, checks, upkeep, stop
"""
