-- Completes a job whose outputs the attempt has committed. ARGV: id, epoch, result, hook flag,
-- retention ms.
-- Returns DONE, ALREADY (this epoch completed it before), or LOST with the job's state.
local id, epoch, result, hook, keep = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if redis.call('ZREM', leases, id .. ':' .. epoch) == 0 then
  local s = redis.call('HMGET', status(id), 'state', 'epoch')
  if s[1] == 'completed' and s[2] == epoch then return { 'ALREADY' } end
  return { 'LOST', s[1] or '' }
end
local ms = event(id, 'completed')
redis.call('HSET', status(id), 'state', 'completed', 'result', result, 'progress', 100,
  'finished', ms, 'error', '')
finish(id, 'completed', epoch, ms, hook, keep)
return { 'DONE' }
