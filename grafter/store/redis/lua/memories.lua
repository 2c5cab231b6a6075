-- What is remembered. Of each bucket, with one end for all three (MEMORY_TTL after the last that was put there):
--   y     a hash: each KEY its memory; r:DIGEST a resource that memories have in common, n:DIGEST how many; n how many
--         memories there are, b their bytes: keys, memories, resources
--   u, t  lists, the second behind the first: an entry a memory (ENTRY, then its key) in the order in which they came. Of a
--         memory that was replaced the entry stays for a while; as the first only where so many of those come one after
--         the other that a script leaves some to the next.
-- A hash a bucket and a list beside it take two thirds of what a key a memory and a sorted set took.
local ENTRY = "<dd"
local ENTRY_BYTES = 16
-- Of what is made or put off now, in milliseconds.
local LISTS_TTL = MEMORY_TTL + 3600000

-- Of the resource that a memory shares (core/memory_edits.py): the digest, or nothing.
local function digest_in(raw, first)
  if #raw < first + 43 or raw:byte(first) ~= 84 or raw:byte(first + 1) ~= 1 or bit.band(raw:byte(first + 2), 4) == 0 then return nil end
  local state = unpk(">I4", raw, first + 24)
  local from = first + 44 + raw:byte(first + 3) + state
  local digest = raw:sub(from, from + 15)
  return #digest == 16 and digest or nil
end

local function digest_of(raw)
  return digest_in(raw, MEMORY_BYTES + 1 + (raw:byte(2) == 1 and HOST_KEY_BYTES or 0))
end

-- By bucket, how many memories there are and their bytes, as far as the script knows.
local counted = {}
local function counts_of(base)
  local counts = counted[base]
  if not counts then
    local found = call("hmget", base .. "y", "n", "b")
    counts = {number = tonumber(found[1]) or 0, bytes = tonumber(found[2]) or 0}
    counted[base] = counts
  end
  return counts
end

-- How many of an older version there were when the script first looked.
local older = {}
local function older_of(base)
  older[base] = older[base] or call("zcard", base .. "z")
  return older[base]
end

-- By bucket what changed in this script: memories and bytes more, and of each digest how many more.
local changes = {}
local function change_of(base)
  local change = changes[base]
  if not change then
    change = {y = base .. "y", number = 0, bytes = 0, digests = {}, entries = {}, replaced = {}}
    changes[base] = change
  end
  return change
end

local function count_memory(change, key, raw, digest, more)
  change.number = change.number + more
  change.bytes = change.bytes + more * (#key + #raw)
  if digest then change.digests[digest] = (change.digests[digest] or 0) + more end
end

-- The number in a memory by which it and its entry are known as each other's, beside their moment.
local function mark(number)
  return number % 65536
end

-- The memory of which an entry is, or nothing where it is there no more.
local function memory_of_entry(base, entry)
  local raw = call("hget", base .. "y", entry:sub(ENTRY_BYTES + 1))
  if not raw then return false end
  local number, at = unpk(ENTRY, entry)
  local _, _, since, marked = unpk(MEMORY, raw)
  return since == at and marked == mark(number) and raw
end

-- The first entry and the list in which it is, or nothing.
local function first_entry(base)
  local entry = call("lindex", base .. "u", 0)
  if entry then return entry, base .. "u" end
  return call("lindex", base .. "t", 0), base .. "t"
end

-- How many entries of replaced memories this script still drops: each takes Redis some 5 us, and behind one memory that
-- stayed while all others were remembered anew there are as many as there are memories.
local dead_to_drop = 256

-- Let the first entry be one whose memory is there, or come closer to that.
local function drop_dead_entries(base)
  while dead_to_drop > 0 do
    local entry, list = first_entry(base)
    if not entry or memory_of_entry(base, entry) then return end
    call("lpop", list)
    dead_to_drop = dead_to_drop - 1
  end
end

-- Where traces are remembered again and again (mode stream), entries of replaced memories would pile up: past as many as
-- there are memories each new one has the next four looked at. What is live among those goes into u, in its order.
local function sweep(base)
  local t, u = base .. "t", base .. "u"
  if call("llen", t) + call("llen", u) <= 2 * call("hlen", base .. "y") + 64 then return end
  for _ = 1, 4 do
    local entry = call("lpop", t)
    if not entry then break end
    if memory_of_entry(base, entry) and call("rpush", u, entry) == 1 then call("pexpire", u, LISTS_TTL) end
  end
  if call("exists", t) == 0 and call("exists", u) == 1 then call("rename", u, t) end
end

local function forget_older(base, key)
  local name = base .. "y:" .. key
  local raw = call("getrange", name, 0, 255)
  local digest = #raw > 60 and digest_in(raw, MEMORY_BYTES - 1 + (raw:byte(2) == 1 and HOST_KEY_BYTES or 0))
  if digest and call("hincrby", base .. "w:" .. digest, "n", -1) <= 0 then call("unlink", base .. "w:" .. digest) end
  call("unlink", name)
  call("zrem", base .. "z", key)
end

-- Since when an older version's memory is kept, as text: "gone" where it is there no more, "" where only a newer version
-- knows.
local function since_of_older(base, key)
  local raw = call("getrange", base .. "y:" .. key, 0, 9)
  if raw == "" then return "gone" end
  if raw:byte(1) ~= 1 then return "" end
  return string.format("%.0f", unpk("<d", raw, 3))
end

local function keep_memory(base, key, host, blob, number, now)
  local change = change_of(base)
  local raw = pack(MEMORY, 1, host ~= "" and 1 or 0, now, mark(number)) .. host .. blob
  local old = call("hsetnx", change.y, key, raw) == 0 and call("hget", change.y, key)
  local entries = change.entries
  entries[#entries + 1] = pack(ENTRY, number, now) .. key
  count_memory(change, key, raw, digest_in(blob, 1), 1)
  if old then
    call("hset", change.y, key, raw)
    count_memory(change, key, old, digest_of(old), -1)
    change.replaced[key] = true
  elseif older_of(base) > 0 then
    forget_older(base, key)
  end
end

-- The first entry goes, and its memory. The answer: the memory's bytes, and the digest of the resource that it shared;
-- nothing where it was replaced or is gone.
local function forget_first(base)
  local entry, list = first_entry(base)
  local key = entry:sub(ENTRY_BYTES + 1)
  local raw = memory_of_entry(base, entry)
  call("lpop", list)
  if not raw then return nil end
  call("hdel", base .. "y", key)
  local digest = digest_of(raw)
  count_memory(change_of(base), key, raw, digest, -1)
  drop_dead_entries(base)
  return #key + #raw, digest
end

-- The bytes of a resource that goes with what this script forgets: none while other memories have it.
local function bytes_gone_with(base, digest)
  local y = base .. "y"
  local left = (tonumber(call("hget", y, "n:" .. digest)) or 0) + change_of(base).digests[digest]
  return left > 0 and 0 or call("hstrlen", y, "r:" .. digest)
end

-- Put the entries of new memories behind the others, many with one command: by itself each would move the end of the list
-- to another place in Redis' memory.
local function push_entries(base, change)
  local t, entries = base .. "t", change.entries
  for first = 1, #entries, 500 do
    local last = math.min(first + 499, #entries)
    if call("rpush", t, unpack(entries, first, last)) == last - first + 1 then call("pexpire", t, LISTS_TTL) end
  end
  if next(change.replaced) then
    drop_dead_entries(base)
    for _ in pairs(change.replaced) do sweep(base) end
  end
end

-- Bring into the buckets what changed. Of the resources those that are new, by bucket and digest.
local function flush_memories(resources)
  for base, change in pairs(changes) do
    local y = change.y
    push_entries(base, change)
    for digest, more in pairs(change.digests) do
      local left = more == 0 and 1 or call("hincrby", y, "n:" .. digest, more)
      local resource = more > 0 and resources[base .. digest]
      if left <= 0 then
        change.bytes = change.bytes - call("hstrlen", y, "r:" .. digest)
        call("hdel", y, "n:" .. digest, "r:" .. digest)
      elseif resource and call("hsetnx", y, "r:" .. digest, resource) == 1 then
        change.bytes = change.bytes + #resource
      end
    end
    local counts = counts_of(base)
    counts.number, counts.bytes = counts.number + change.number, counts.bytes + change.bytes
    call("hset", y, "n", counts.number, "b", counts.bytes)
    if counts.number <= 0 then call("unlink", y, base .. "u", base .. "t") end
    -- Not with each: it ends an hour later than the last of them has to. A list that is made later ends no earlier.
    if call("pttl", y) < MEMORY_TTL then
      for _, name in ipairs({"y", "u", "t"}) do call("pexpire", base .. name, LISTS_TTL) end
    end
  end
  changes = {}
end
