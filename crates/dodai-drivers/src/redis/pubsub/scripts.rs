//! What is done on the server in one step each. `KEYS[1]` is the stream of a topic.

/// Adds a message: data, metadata, content type, the longest that the stream may be, its greatest age in milliseconds,
/// and how many messages wait in a stream that nobody has joined, or nothing. Such a stream is known by a group without
/// a name; one that others made, or whose groups are gone, has none and keeps what it has.
pub const PUBLISH: &str = "\
local fresh = redis.call('EXISTS', KEYS[1]) == 0
local add = {'XADD', KEYS[1]}
if ARGV[4] ~= '' then add[3], add[4], add[5] = 'MAXLEN', '~', ARGV[4] end
for _, part in ipairs({'*', 'data', ARGV[1]}) do add[#add + 1] = part end
if ARGV[2] ~= '' then add[#add + 1] = 'metadata' add[#add + 1] = ARGV[2] end
if ARGV[3] ~= '' then add[#add + 1] = 'contentType' add[#add + 1] = ARGV[3] end
local id = redis.call(unpack(add))
if ARGV[5] ~= '' then
  local time = redis.call('TIME')
  local oldest = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) - tonumber(ARGV[5])
  redis.call('XTRIM', KEYS[1], 'MINID', '~', string.format('%.0f', oldest))
end
if ARGV[6] ~= '' then
  if fresh then redis.call('XGROUP', 'CREATE', KEYS[1], '', '0') end
  local groups = redis.call('XINFO', 'GROUPS', KEYS[1])
  if #groups == 1 and groups[1][2] == '' then redis.call('XTRIM', KEYS[1], 'MAXLEN', ARGV[6]) end
end
return id";

/// Makes a group: its name, how many messages waited for the first or nothing, and whether the server has lost it, so
/// that it begins at the start and everything that is left.
pub const JOIN: &str = "\
local groups = {}
if redis.call('EXISTS', KEYS[1]) == 1 then groups = redis.call('XINFO', 'GROUPS', KEYS[1]) end
local nobodys, others = false, 0
for _, group in ipairs(groups) do
  if group[2] == ARGV[1] then return 0 end
  if group[2] == '' then nobodys = true else others = others + 1 end
end
local start = '$'
if others == 0 or ARGV[3] == '1' then start = '0' end
if nobodys then
  if others == 0 and ARGV[3] ~= '1' and ARGV[2] ~= '' then redis.call('XTRIM', KEYS[1], 'MAXLEN', ARGV[2]) end
  redis.call('XGROUP', 'DESTROY', KEYS[1], '')
end
redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], start, 'MKSTREAM')
return 1";

/// Takes a message: group, lease, whether to look first for one that was pending for longer than that, and how many may
/// be pending when a new one is taken. Answers id, count of deliveries and fields; nothing; or an empty id where too many
/// are pending. What is pending and was removed from the stream is settled on the way.
pub const TAKE: &str = "\
local function pairs_of(fields)
  local list = {}
  for at = 1, #fields, 2 do list[#list + 1] = {fields[at], fields[at + 1]} end
  return list
end
for _ = 1, ARGV[3] == '1' and 100 or 0 do
  local due = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[2], '-', '+', 1)[1]
  if not due then break end
  local claimed = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[1], 0, due[1])[1]
  if claimed and claimed[2] then return {claimed[1], due[4] + 1, pairs_of(claimed[2])} end
  redis.call('XACK', KEYS[1], ARGV[1], due[1])
end
if redis.call('XPENDING', KEYS[1], ARGV[1])[1] >= tonumber(ARGV[4]) then return {'', 0, {}} end
local read = redis.call('XREADGROUP', 'GROUP', ARGV[1], ARGV[1], 'COUNT', 1, 'STREAMS', KEYS[1], '>')
if not read then return false end
local entry = read[1][2][1]
return {entry[1], 1, pairs_of(entry[2])}";

/// Settles a message: group, id, the count of deliveries that it was given with. Answers whether it is settled: not if
/// it has been given again. One that is pending no longer is: this may be the second time that its holder says so.
pub const ACK: &str = "\
local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)[1]
if not held then return 1 end
if held[4] ~= tonumber(ARGV[3]) then return 0 end
return redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])";

/// Sets how long a message counts as pending, in milliseconds, so that it is due earlier or later.
pub const LATER: &str = "\
local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)[1]
if not held or held[4] ~= tonumber(ARGV[3]) then return 0 end
redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[1], 0, ARGV[2], 'IDLE', ARGV[4], 'JUSTID')
return 1";

/// Removes a group: its name, and something if messages that nobody waits for are few.
pub const FORGET: &str = "\
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
if redis.call('XGROUP', 'DESTROY', KEYS[1], ARGV[1]) == 0 then return 0 end
if ARGV[2] ~= '' and #redis.call('XINFO', 'GROUPS', KEYS[1]) == 0 then
  redis.call('XGROUP', 'CREATE', KEYS[1], '', '0')
end
return 1";

/// For each group its name, how many messages are pending, and how many it has yet to be given. Where the server does
/// not know that, it is counted if it is little, otherwise reckoned from the times of the first, the next and the last.
pub const STANDINGS: &str = "\
local few = 16
local function ms(id) return tonumber(string.match(id, '^(%d+)')) end
local function behind(id)
  local some = redis.call('XRANGE', KEYS[1], '(' .. id, '+', 'COUNT', few)
  if #some < few then return #some end
  local of, info = {}, redis.call('XINFO', 'STREAM', KEYS[1])
  for at = 1, #info, 2 do of[info[at]] = info[at + 1] end
  local first, last, at = ms(of['first-entry'][1]), ms(of['last-generated-id']), ms(id)
  if at < first or last == first then return of['length'] end
  return math.max(few, math.floor(of['length'] * (last - at) / (last - first)))
end
local list = {}
if redis.call('EXISTS', KEYS[1]) == 0 then return list end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local of = {}
  for at = 1, #group, 2 do of[group[at]] = group[at + 1] end
  list[#list + 1] = {of['name'], of['pending'], of['lag'] or behind(of['last-delivered-id'])}
end
return list";

/// Shows what a group has yet to settle: group, the id after which, how many at most, and for how many milliseconds a
/// message is held. Answers id, count of deliveries, whether it is held, and fields. Of what is settled and still there
/// so many are passed over.
pub const PEEK: &str = "\
local list, last = {}, nil
local function later(a, b)
  local ams, as = string.match(a, '^(%d+)-(%d+)$')
  local bms, bs = string.match(b, '^(%d+)-(%d+)$')
  ams, as, bms, bs = tonumber(ams), tonumber(as), tonumber(bms), tonumber(bs)
  return ams > bms or (ams == bms and as > bs)
end
local function pairs_of(fields)
  local list = {}
  for at = 1, #fields, 2 do list[#list + 1] = {fields[at], fields[at + 1]} end
  return list
end
if redis.call('EXISTS', KEYS[1]) == 0 then return list end
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local of = {}
  for at = 1, #group, 2 do of[group[at]] = group[at + 1] end
  if of['name'] == ARGV[1] then last = of['last-delivered-id'] end
end
if not last then return list end
local from, seen = '-', 0
if ARGV[2] ~= '' then from = '(' .. ARGV[2] end
while #list < tonumber(ARGV[3]) and seen < 2000 do
  local some = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 100)
  if #some == 0 then break end
  for _, entry in ipairs(some) do
    seen, from = seen + 1, '(' .. entry[1]
    local held = redis.call('XPENDING', KEYS[1], ARGV[1], entry[1], entry[1], 1)[1]
    if held then
      list[#list + 1] = {entry[1], held[4], held[3] < tonumber(ARGV[4]) and 1 or 0, pairs_of(entry[2])}
    elseif later(entry[1], last) then
      list[#list + 1] = {entry[1], 0, 0, pairs_of(entry[2])}
    end
    if #list >= tonumber(ARGV[3]) then break end
  end
end
return list";

/// Moves a message to `KEYS[2]`: group, id, for how many milliseconds a message is held, and how many messages wait in a
/// stream that nobody has joined, or nothing. One that this group has not been given yet goes only where no other group
/// wants it: a group cannot pass over a message.
pub const REPLAY: &str = "\
local function later(a, b)
  local ams, as = string.match(a, '^(%d+)-(%d+)$')
  local bms, bs = string.match(b, '^(%d+)-(%d+)$')
  ams, as, bms, bs = tonumber(ams), tonumber(as), tonumber(bms), tonumber(bs)
  return ams > bms or (ams == bms and as > bs)
end
if redis.call('EXISTS', KEYS[1]) == 0 then return 'gone' end
local groups, last = redis.call('XINFO', 'GROUPS', KEYS[1]), nil
for _, group in ipairs(groups) do
  local of = {}
  for at = 1, #group, 2 do of[group[at]] = group[at + 1] end
  if of['name'] == ARGV[1] then last = of['last-delivered-id'] end
end
if not last then return 'gone' end
local entry = redis.call('XRANGE', KEYS[1], ARGV[2], ARGV[2])[1]
if not entry then return 'gone' end
local held = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1)[1]
local fresh = later(entry[1], last)
if not held and not fresh then return 'gone' end
if held and held[3] < tonumber(ARGV[3]) then return 'held' end
if not held and #groups > 1 then return 'shared' end
local first = redis.call('EXISTS', KEYS[2]) == 0
redis.call('XADD', KEYS[2], '*', unpack(entry[2]))
if ARGV[4] ~= '' then
  if first then redis.call('XGROUP', 'CREATE', KEYS[2], '', '0') end
  local there = redis.call('XINFO', 'GROUPS', KEYS[2])
  if #there == 1 and there[1][2] == '' then redis.call('XTRIM', KEYS[2], 'MAXLEN', ARGV[4]) end
end
if held then redis.call('XACK', KEYS[1], ARGV[1], ARGV[2]) else redis.call('XDEL', KEYS[1], ARGV[2]) end
return 'moved'";

/// Removes messages that every group has settled.
pub const SWEEP: &str = "\
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local ms, seq
for _, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local of = {}
  for at = 1, #group, 2 do of[group[at]] = group[at + 1] end
  if of['name'] ~= '' then
    local first, add = of['last-delivered-id'], 1
    if of['pending'] > 0 then first, add = redis.call('XPENDING', KEYS[1], of['name'])[2], 0 end
    local a, b = string.match(first, '^(%d+)-(%d+)$')
    a, b = tonumber(a), tonumber(b) + add
    if not ms or a < ms or (a == ms and b < seq) then ms, seq = a, b end
  end
end
if not ms then return 0 end
return redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f-%.0f', ms, seq))";

/// The last id that each of the streams has given, in the order of the keys.
pub const LAST: &str = "\
local list = {}
for at, key in ipairs(KEYS) do
  list[at] = '0-0'
  if redis.call('EXISTS', key) == 1 then
    local info = redis.call('XINFO', 'STREAM', key)
    for field = 1, #info, 2 do
      if info[field] == 'last-generated-id' then list[at] = info[field + 1] end
    end
  end
end
return list";
