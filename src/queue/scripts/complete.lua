-- Completes a job whose outputs the attempt has committed. ARGV: id, epoch, result, hook flag,
-- the epoch of the attempt that committed them, the three arguments of finish about what is kept, the epoch of
-- the attempt that split the job (else ''), that of the attempt in whose folder the outputs are, the token by which
-- the job was submitted (else '') with the duration of its input in seconds, and the class of the workers that may run it
-- ('': the default one). The webhook
-- is named by the attempt that committed: should a failover forget this, the job is completed once more, and its
-- receiver knows the message by its name.
-- Returns DONE, ALREADY (this epoch completed it before), or LOST with the job's state.
local id, epoch, result, hook, committed = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
if redis.call('ZREM', leases, id .. ':' .. epoch) == 0 then
  local s = redis.call('HMGET', status(id), 'state', 'epoch')
  if s[1] == 'completed' and s[2] == epoch then return { 'ALREADY' } end
  return { 'LOST', s[1] or '' }
end
give_back_on_error(id, epoch)
local ms = event(id, 'completed')
redis.call('HSET', status(id), 'state', 'completed', 'result', result, 'progress', 100,
  'finished', ms, 'error', '', 'committed', committed)
-- What the parts have stored are the outputs themselves, or was made into them.
local split = ARGV[10] or ''
if split ~= '' and split ~= ARGV[11] then clean_up_attempt(id, split, by_clock(ms)) end
finish(id, 'completed', committed, ms, hook, ARGV[7], ARGV[8], ARGV[9])
-- Every version can read a job that has ended.
if split ~= '' or (ARGV[14] or '') ~= '' then redis.call('HSET', status(id), 'v', VERSION) end
if split ~= '' then drop_parts(id) end
if (ARGV[12] or '') ~= '' then count_source(ARGV[12], ARGV[13], by_clock(ms)) end
return { 'DONE' }
