-- Where a guest's part belongs, found in the same step that stores it: for a server that has all buckets. What the store
-- knows of a guest is read once and written back when its parts are stored.
local guests = {}
local UNPLACED = 5
-- Of CRC-32, by half bytes: the bucket of a key, as layout.bucket_of has it.
local CRC = {
  [0] = 0, 0x1db71064, 0x3b6e20c8, 0x26d930ac, 0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
  0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c, 0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c,
}

local function bucket_of(key)
  local crc = 0xffffffff
  for i = 1, #key do
    crc = bit.bxor(crc, key:byte(i))
    crc = bit.bxor(bit.rshift(crc, 4), CRC[bit.band(crc, 15)])
    crc = bit.bxor(bit.rshift(crc, 4), CRC[bit.band(crc, 15)])
  end
  return bit.band(bit.bnot(crc), 63)
end

local function guest_of(base, own, named_host, order, now)
  local found = guests[base .. own]
  if not found then
    found = {name = base .. "l:" .. own, more = 0}
    found.has, found.since, found.parts, found.host = link_of(base, own, now, named_host, order)
    guests[base .. own] = found
  end
  return found
end

-- Let a part be stored under its host, or under its own key where the host is not known or has been released; false when
-- parts that wait under the own key have to move first: that is more than one step. ``refusal`` says why a host takes none.
local function place(item, refusal)
  local own = item.key
  local guest = guest_of(item.base, own, item.named_host, item.order, item.now)
  item.of = guest
  item.kind = 2
  local waiting = load_head(item.base, own)
  if guest.has == 0 or APART then return true end
  local host = host_at(guest.host, 1)
  local bucket = bucket_of(host)
  local there = {base = base_of(bucket), key = host, kind = 1, now = item.now, guest = item.guest}
  if refusal(there) then return true end
  if waiting and waiting.n > waiting.pinn then return false end
  item.base, item.key, item.kind, item.bucket = there.base, host, 1, bucket
  return true
end

local function note_guests()
  for _, guest in pairs(guests) do
    if guest.more > 0 then
      call("set", guest.name, pack(LINK, 1, guest.has, guest.since, guest.parts + guest.more) .. guest.host, "px", TTL)
    end
  end
end
