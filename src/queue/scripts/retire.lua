-- Retires the workers of a machine, so that they get no further job, unless one of them holds one.
-- ARGV: fleet, holder, epoch, machine, for how many ms new workers on it are refused, names of workers.
-- Returns RETIRED, BUSY (nothing was changed), or FENCED (the caller no longer holds the fleet lock).
local machine, ms = ARGV[5], tonumber(ARGV[6])
local now = clock()
if not holds_lock(ARGV[2], ARGV[3], ARGV[4], now) then return { 'FENCED' } end
local workers, lanes = {}, {}
for i = 7, #ARGV do workers[ARGV[i]] = true end
for _, json in ipairs(redis.call('HVALS', pool)) do
  local ok, record = pcall(cjson.decode, json)
  if ok and type(record) == 'table' and record.machineId == machine then
    workers[record.workerId] = true
    -- One of an older version names no classes.
    local its = type(record.workerClasses) == 'table' and record.workerClasses or { DEFAULT_CLASS }
    for _, class in ipairs(its) do lanes[class == DEFAULT_CLASS and '' or tostring(class)] = true end
  end
end
for i = 7, #ARGV do
  if redis.call('HEXISTS', pool, ARGV[i]) == 0 then lanes[''] = true end
end
-- An expired lease counts as well: until it is reaped, a heartbeat can still renew it.
for _, member in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
  if workers[redis.call('HGET', status(string.match(member, '^(.+):%d+$')), 'worker') or ''] then
    return { 'BUSY' }
  end
end
redis.call('ZADD', retired, now + ms, machine)
redis.call('ZREMRANGEBYSCORE', retired, '-inf', now)
for worker in pairs(workers) do
  local at = tonumber(redis.call('ZSCORE', alive, worker) or RETIRED_OFFSET)
  if at < RETIRED_OFFSET then redis.call('ZADD', alive, 'XX', RETIRED_OFFSET + at, worker) end
end
-- A wake-up cannot be sent to a certain worker, so all idle ones of its classes are woken.
for class in pairs(lanes) do ring_all(class, 16) end
return { 'RETIRED' }
