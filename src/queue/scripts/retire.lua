-- Retires a machine's workers: they get no further job. Does nothing if one of them holds a job. ARGV: holder, epoch,
-- machine, ms during which new workers of the machine are refused, ids of workers.
-- Returns RETIRED, BUSY (nothing was done), or FENCED.
local holder, epoch, machine, ms = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local now = clock()
if not holds_lock(holder, epoch, now) then return { 'FENCED' } end
local ours = {}
for i = 6, #ARGV do ours[ARGV[i]] = true end
for _, json in ipairs(redis.call('HVALS', pool)) do
  local ok, record = pcall(cjson.decode, json)
  if ok and type(record) == 'table' and record.machineId == machine then ours[record.workerId] = true end
end
-- An expired lease counts, too: until it is reaped, a heartbeat may renew it.
for _, member in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
  if ours[redis.call('HGET', status(string.match(member, '^(.+):%d+$')), 'worker') or ''] then
    return { 'BUSY' }
  end
end
redis.call('ZADD', retired, now + ms, machine)
redis.call('ZREMRANGEBYSCORE', retired, '-inf', now)
for worker in pairs(ours) do
  local at = tonumber(redis.call('ZSCORE', alive, worker) or RETIRED_OFFSET)
  if at < RETIRED_OFFSET then redis.call('ZADD', alive, 'XX', RETIRED_OFFSET + at, worker) end
end
-- Wakes many idle workers, because a script cannot wake a certain one.
ring_all(16)
return { 'RETIRED' }
