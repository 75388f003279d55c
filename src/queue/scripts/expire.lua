-- Fails a job whose upload never arrived. ARGV: id, failure.
-- Returns FAILED, ALREADY with the job's state, or UNKNOWN.
local id, failure = ARGV[2], ARGV[3]
local s = redis.call('HMGET', status(id), 'state', 'hook', 'keep', 'keep_input', 'keep_outputs')
if s[1] ~= 'uploading' then
  redis.call('ZREM', uploading, id)
  if not s[1] then return { 'UNKNOWN' } end
  return { 'ALREADY', s[1] }
end
fail_upload(id, failure, s[2], s[3], s[4], s[5])
return { 'FAILED' }
