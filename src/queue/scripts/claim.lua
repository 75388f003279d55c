-- A worker asks for a job. ARGV: worker, now (server time as the worker reckons it), lease ms, for how
-- long the worker counts as alive, how many due jobs to sweep first (0: none).
-- Returns JOB id epoch attempt spec ms born earlier queued trace | EMPTY next-due now | UNREGISTERED | RETIRED
-- | STRAY id.
local worker, now, lease, alive_ms, limit = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
-- What a sweep does to other workers' leases is never left to this worker's clock; and an idle worker,
-- whose claims all sweep, has its clock set right by the answer.
if limit > 0 then now = clock() end
if redis.call('ZADD', alive, 'XX', 'GT', 'CH', now + alive_ms, worker) == 0 then
  local till = redis.call('ZSCORE', alive, worker)
  if not till then return { 'UNREGISTERED' } end
  -- No heartbeat reaches the scores of those who were told to leave (retire.lua).
  if tonumber(till) >= RETIRED_OFFSET then return { 'RETIRED' } end
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
-- Counting alone would use a number twice: when the id is used again after its record expired, and
-- when a failover forgot a claim. The clock never comes back to a number.
local epoch = math.max(previous + 1, ms)
redis.call('HSET', status(id), 'state', 'running', 'epoch', epoch, 'attempt', attempt,
  'worker', worker, 'started', ms, 'progress', 0)
redis.call('ZADD', leases, ms + lease, id .. ':' .. epoch)
return { 'JOB', id, epoch, attempt, s[4], ms, tonumber(s[5]), previous > 0 and 1 or 0, tonumber(s[6]) or ms,
  s[7] or '' }
