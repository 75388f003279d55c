-- Records a failed attempt. ARGV: id, epoch, failure, ms until the next attempt (-1: there is
-- none), hook flag, retention ms, whether the next claim only verifies (1), because this attempt
-- cannot tell whether the job's manifest stands.
-- Returns RETRY with its time, FAILED, ALREADY, or LOST with the job's state.
local id, epoch, failure, delay, hook, keep = ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5]), ARGV[6], ARGV[7]
local verify = ARGV[8]
if redis.call('ZREM', leases, id .. ':' .. epoch) == 0 then
  local s = redis.call('HMGET', status(id), 'state', 'epoch', 'error')
  local repeated = s[2] == epoch and s[3] == failure and (s[1] == 'failed' or s[1] == 'queued')
  if repeated then return { 'ALREADY' } end
  return { 'LOST', s[1] or '' }
end
if delay >= 0 then
  local ms = event(id, 'queued')
  redis.call('HSET', status(id), 'state', 'queued', 'error', failure, 'retry', ms + delay, 'queued', '',
    'verify', verify)
  redis.call('ZADD', scheduled, ms + delay, id)
  -- Wakes an idle worker, so that it learns when the retry is due and does not wait longer.
  ring(id)
  return { 'RETRY', ms + delay }
end
local ms = event(id, 'failed')
redis.call('HSET', status(id), 'state', 'failed', 'error', failure, 'finished', ms)
finish(id, 'failed', epoch, ms, hook, keep)
return { 'FAILED' }
