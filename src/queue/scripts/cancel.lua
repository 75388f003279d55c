-- Cancels a job. ARGV: id, how (cancelled|suspended|overdue), the failure of an overdue job.
-- Returns CANCELLED, ENDED with the state in which the job had ended, or UNKNOWN.
-- A running worker learns this with its next heartbeat, because its lease is gone.
local id, how, failure = ARGV[2], ARGV[3], ARGV[4]
local s = redis.call('HMGET', status(id), 'state', 'epoch', 'hook', 'keep', 'suspended', 'keep_input',
  'keep_outputs', 'split', 'class')
local state = s[1]
if not state then return { 'UNKNOWN' } end
-- A suspended job can still be cancelled, and only then a webhook is sent.
local for_good = state == 'cancelled' and s[5] == '1' and how == 'cancelled'
if (state == 'completed' or state == 'failed' or state == 'cancelled') and not for_good then
  return { 'ENDED', state }
end
local to = how == 'overdue' and 'failed' or 'cancelled'
on_error(function()
  redis.pcall('HSET', status(id), 'state', state, 'finished', '', 'suspended', s[5] or '', 'overdue', '')
  if for_good then
    redis.pcall('PEXPIRE', status(id), s[4])
    redis.pcall('ZADD', cancelled, clock(), id)
  end
end)
local ms = event(id, to)
redis.call('HSET', status(id), 'state', to, 'finished', ms, 'retry', '',
  'suspended', how == 'suspended' and '1' or '')
-- The previous state is stored, because a job whose input never arrived cannot be retried.
if how == 'overdue' then
  redis.call('HSET', status(id), 'error', failure, 'overdue', state)
elseif state == 'uploading' then
  redis.call('HSET', status(id), 'overdue', state)
end
if how == 'suspended' then
  -- It may be resumed at any time: everything is kept, and no webhook is sent.
  finish(id, to, s[2], ms, '0')
else
  finish(id, to, s[2], ms, s[3], s[4], s[6], s[7])
end
local split = s[8] or ''
if split ~= '' then
  clean_up_attempt(id, split, by_clock(ms))
  drop_parts(id)
  redis.call('HSET', status(id), 'split', '')
end
-- This comes last: what is removed here cannot be put back at its old place.
if state == 'uploading' then
  redis.call('ZREM', uploading, id)
elseif state == 'queued' then
  if dequeue(s[9] or '', id) == 0 then redis.call('ZREM', scheduled, id) end
elseif state == 'running' and s[2] ~= split then
  clean_up_attempt(id, s[2], by_clock(ms))
  redis.call('ZREM', leases, id .. ':' .. s[2])
end
return { 'CANCELLED' }
