-- Calls a job off. ARGV: id. Says CANCELLED, ENDED with the state it ended in before, or UNKNOWN.
-- A running worker learns it at its next heartbeat: its lease is gone.
local id = ARGV[2]
local s = redis.call('HMGET', status(id), 'state', 'epoch', 'hook', 'keep')
local state = s[1]
if not state then return { 'UNKNOWN' } end
if state == 'completed' or state == 'failed' or state == 'cancelled' then return { 'ENDED', state } end
local ms = event(id, 'cancelled')
redis.call('HSET', status(id), 'state', 'cancelled', 'finished', ms, 'retry', '')
if state == 'uploading' then
  redis.call('ZREM', uploading, id)
elseif state == 'queued' then
  if redis.call('ZREM', pending, id) == 0 then redis.call('ZREM', scheduled, id) end
else
  redis.call('ZREM', leases, id .. ':' .. s[2])
end
ended(id, 'cancelled', s[2], ms, s[3], s[4])
return { 'CANCELLED' }
