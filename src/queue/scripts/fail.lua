-- Records a failed attempt. ARGV: id, epoch, failure, ms until the next attempt (-1: there is
-- none), hook flag, whether the next claim only verifies (1), because this attempt cannot tell whether
-- the job's manifest stands, and the three arguments of finish about what is kept.
-- Returns RETRY with its time, FAILED, ALREADY, or LOST with the job's state.
local id, epoch, failure, delay, hook, verify = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7]
if redis.call('ZREM', leases, id .. ':' .. epoch) == 0 then
  local s = redis.call('HMGET', status(id), 'state', 'epoch', 'error')
  local repeated = s[2] == epoch and s[3] == failure and (s[1] == 'failed' or s[1] == 'queued')
  if repeated then return { 'ALREADY' } end
  return { 'LOST', s[1] or '' }
end
if delay >= 0 then
  local now = by_clock(event(id, 'queued'))
  redis.call('HSET', status(id), 'state', 'queued', 'error', failure, 'retry', now + delay, 'queued', '',
    'verify', verify)
  redis.call('ZADD', scheduled, now + delay, id)
  clean_up_attempt(id, epoch, now)
  -- Wakes an idle worker, so that it learns when the retry is due and does not wait longer.
  ring(id)
  return { 'RETRY', now + delay }
end
local ms = event(id, 'failed')
redis.call('HSET', status(id), 'state', 'failed', 'error', failure, 'finished', ms)
clean_up_attempt(id, epoch, ms)
finish(id, 'failed', epoch, ms, hook, ARGV[8], ARGV[9], ARGV[10])
return { 'FAILED' }
