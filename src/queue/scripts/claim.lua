-- Claims a job for a worker. ARGV: worker, now (the worker's estimate of the server's time), lease
-- ms, for how many ms the worker counts as alive, the number of due jobs to sweep first (0: none).
-- Returns JOB id epoch attempt spec ms born earlier queued trace | EMPTY next-due now |
-- UNREGISTERED | RETIRED | STRAY id.
local worker, now, lease, alive_ms, limit = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
-- A sweep uses the server's clock, because it affects the leases of other workers. All claims of an
-- idle worker sweep, so the reply corrects its clock.
if limit > 0 then now = clock() end
if redis.call('ZADD', alive, 'XX', 'GT', 'CH', now + alive_ms, worker) == 0 then
  local alive_until = redis.call('ZSCORE', alive, worker)
  if not alive_until then return { 'UNREGISTERED' } end
  -- Heartbeats do not change the scores of retired workers (retire.lua).
  if tonumber(alive_until) >= RETIRED_OFFSET then return { 'RETIRED' } end
end
local due = -1
if limit > 0 then
  claimant = worker
  local _, next_due = sweep(now, limit)
  due = next_due
end
local popped = redis.call('ZPOPMIN', pending)
local id = popped[1]
if not id then return { 'EMPTY', due, limit > 0 and now or -1 } end
local s = redis.call('HMGET', status(id), 'state', 'epoch', 'attempt', 'spec', 'created', 'queued', 'trace')
if s[1] ~= 'queued' then return { 'STRAY', id } end
local previous, attempt = tonumber(s[2]), tonumber(s[3]) + 1
local ms = event(id, 'running')
-- A plain counter would use a number twice: when the id is used again after its record has expired,
-- and when a failover has lost a claim. The clock never repeats a number.
local epoch = math.max(previous + 1, ms)
redis.call('HSET', status(id), 'state', 'running', 'epoch', epoch, 'attempt', attempt,
  'worker', worker, 'started', ms, 'progress', 0)
redis.call('ZADD', leases, ms + lease, id .. ':' .. epoch)
return { 'JOB', id, epoch, attempt, s[4], ms, tonumber(s[5]), previous > 0 and 1 or 0, tonumber(s[6]) or ms,
  s[7] or '' }
