-- Cancels a job. ARGV: id, how (cancelled|suspended|overdue), the failure of an overdue job.
-- Returns CANCELLED, ENDED with the state in which the job had ended, or UNKNOWN.
-- A running worker learns this with its next heartbeat, because its lease is gone.
local id, how, failure = ARGV[2], ARGV[3], ARGV[4]
local s = redis.call('HMGET', status(id), 'state', 'epoch', 'hook', 'keep', 'suspended')
local state = s[1]
if not state then return { 'UNKNOWN' } end
-- A suspended job can still be cancelled, and only then a webhook is sent.
local for_good = state == 'cancelled' and s[5] == '1' and how == 'cancelled'
if (state == 'completed' or state == 'failed' or state == 'cancelled') and not for_good then
  return { 'ENDED', state }
end
local to = how == 'overdue' and 'failed' or 'cancelled'
local ms = event(id, to)
redis.call('HSET', status(id), 'state', to, 'finished', ms, 'retry', '', 'suspended', how == 'suspended' and '1' or '')
if how == 'overdue' then
  -- The previous state is stored, because a job whose input never arrived cannot be retried.
  redis.call('HSET', status(id), 'error', failure, 'overdue', state)
end
if state == 'uploading' then
  redis.call('ZREM', uploading, id)
elseif state == 'queued' then
  if redis.call('ZREM', pending, id) == 0 then redis.call('ZREM', scheduled, id) end
elseif state == 'running' then
  redis.call('ZREM', leases, id .. ':' .. s[2])
end
finish(id, to, s[2], ms, how == 'suspended' and '0' or s[3], s[4])
return { 'CANCELLED' }
