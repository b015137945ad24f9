import hashlib
import threading

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.files.base import File
from django.http import FileResponse, HttpResponse, JsonResponse, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_http_methods, require_safe

from documents.forms import DocumentForm
from documents.models import Document

ENVIRON_NAMES = [
    "SERVER_NAME",
    "SERVER_PORT",
    "SERVER_PROTOCOL",
    "SERVER_SOFTWARE",
    "SCRIPT_NAME",
    "PATH_INFO",
    "QUERY_STRING",
    "REMOTE_ADDR",
    "REMOTE_PORT",
    "CONTENT_TYPE",
    "CONTENT_LENGTH",
]


@require_http_methods(["GET", "HEAD", "POST"])
def index(request):
    """List the documents; take a new one and redirect, so that a reload does not send it again."""
    form = DocumentForm(request.POST or None, request.FILES or None)
    if request.method == "POST" and form.is_valid():
        document = form.save()
        messages.success(request, f"{document.title} is here, {document.file.size} bytes.")
        return redirect("index")
    context = {"form": form, "documents": Document.objects.all()[:100]}
    return render(request, "documents/index.html", context, status=400 if form.errors else 200)


@require_safe
def download(request, pk):
    """Send a file: Django hands it to the server through ``wsgi.file_wrapper``."""
    document = get_object_or_404(Document, pk=pk)
    return FileResponse(document.file.open("rb"), as_attachment=True)


@require_safe
def export(request):
    """Stream all documents; rows leave while the database is still being read."""

    def lines():
        yield "id,title,file\n"
        for document in Document.objects.order_by("pk").iterator():
            title = document.title.replace('"', '""')
            yield f'{document.pk},"{title}",{document.file.name}\n'

    return StreamingHttpResponse(lines(), content_type="text/csv; charset=utf-8")


@csrf_exempt  # for programs, which have no form
@require_http_methods(["PUT"])
def receive(request, name):
    """Take the request's content as a document: ``curl -T`` sends it so."""
    document = Document(title=name)
    document.file.save(name, File(request))
    with document.file.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return JsonResponse({"id": document.pk, "size": document.file.size, "sha256": digest}, status=201)


@require_safe
def visits(request):
    """Count one visitor's visits in the session."""
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JsonResponse({"visits": request.session["visits"]})


@require_safe
@login_required
def profile(request):
    return JsonResponse({"user": request.user.get_username(), "staff": request.user.is_staff})


@csrf_exempt
def show_request(request):
    """The request as Django and as the server see it."""
    return JsonResponse(
        {
            "method": request.method,
            "url": request.build_absolute_uri(),
            "host": request.get_host(),
            "secure": request.is_secure(),
            "path_info": request.path_info,
            "arguments": dict(request.GET.lists()),
            "fields": dict(request.POST.lists()),
            "cookies": request.COOKIES,
            "headers": dict(request.headers),
            "environ": {name: request.META.get(name) for name in ENVIRON_NAMES},
            "thread": threading.current_thread().name,
        }
    )


@require_safe
def hello(request, name):
    """A page that stays the same: ``ConditionalGetMiddleware`` gives it an ETag, and answers 304."""
    return HttpResponse(f"Hello, {name}!\n", content_type="text/plain; charset=utf-8")


@require_safe
def broken(request):
    raise RuntimeError("this view is broken on purpose")
