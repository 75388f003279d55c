-- Has the outputs of a split deleted of which the job knows nothing any more: it was split anew, or a failover has
-- forgotten it. ARGV: id, epoch of the attempt that split the job.
-- Returns CURRENT (the job still consists of these parts), or ABANDONED.
local id, split = ARGV[2], ARGV[3]
local s = redis.call('HMGET', status(id), 'split', 'committed')
if s[1] == split or s[2] == split then return { 'CURRENT' } end
clean_up_attempt(id, split, clock())
return { 'ABANDONED' }
