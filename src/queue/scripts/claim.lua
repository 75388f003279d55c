-- A worker asks for a job. ARGV: worker, now (server time as the worker reckons it), lease ms, until
-- when the worker counts as alive, how many due jobs to sweep first (0: none).
-- Returns JOB id epoch attempt spec ms | EMPTY next-due | UNREGISTERED | STRAY id.
local worker, now, lease, until_ms, limit = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
if redis.call('ZADD', alive, 'XX', 'GT', 'CH', until_ms, worker) == 0
  and not redis.call('ZSCORE', alive, worker) then
  return { 'UNREGISTERED' }
end
local due = -1
if limit > 0 then
  local _, next_due = sweep(now, limit)
  due = next_due
end
local popped = redis.call('ZPOPMIN', pending)
local id = popped[1]
if not id then return { 'EMPTY', due } end
local s = redis.call('HMGET', status(id), 'state', 'epoch', 'attempt', 'spec')
if s[1] ~= 'queued' then return { 'STRAY', id } end
local epoch, attempt = tonumber(s[2]) + 1, tonumber(s[3]) + 1
local ms = event(id, 'running')
redis.call('HSET', status(id), 'state', 'running', 'epoch', epoch, 'attempt', attempt,
  'worker', worker, 'started', ms, 'progress', 0)
redis.call('ZADD', leases, ms + lease, id .. ':' .. epoch)
return { 'JOB', id, epoch, attempt, s[4], ms }
